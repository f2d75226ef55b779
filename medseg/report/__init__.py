"""Tables, logs and pictures brought together on one self-contained HTML page."""
