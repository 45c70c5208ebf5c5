"""A drawing toolkit: bar charts and curves as lists of marks, written as SVG and as PNG."""
