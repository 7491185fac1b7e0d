"""Damaged and hostile files through the real code: what is not read must be refused in one line."""
