# The workflow: written next.
