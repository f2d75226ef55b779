"""What is asked of a network: loss, prediction and metrics, as plain classes."""
