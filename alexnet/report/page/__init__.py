"""`alexnet report`: one HTML file about trained networks."""
