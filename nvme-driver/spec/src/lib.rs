//! NVMe registers, commands, completions, identify structures and status codes.
