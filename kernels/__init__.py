"""The two kernel levels, schedules, renderers and library calls."""
