"""Parts that figures are drawn with: axes, labels, panels, style."""
