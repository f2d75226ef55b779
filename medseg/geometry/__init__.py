"""Where the points of a tensor lie: grids, and the way between them."""
