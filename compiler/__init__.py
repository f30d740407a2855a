"""The spine: capture, IR, symbolic dims, autodiff, pipeline and runtime."""
