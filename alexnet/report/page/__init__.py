"""`alexnet report`: one HTML file that shows what was trained."""
