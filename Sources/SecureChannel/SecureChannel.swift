// The target's first file gives way to its parts.
