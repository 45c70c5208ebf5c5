"""Drawing: marks, scales and colours, as SVG and as PNG."""
