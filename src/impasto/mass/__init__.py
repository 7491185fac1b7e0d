"""Millions of images over many processes and machines: Ray Data moves the work, fsspec reaches the files.

`sources` streams what is to be done, `painting` does it in a worker, `report` keeps what is done, `run` joins them
on Ray, which `cluster` starts, and `storage` reads and writes wherever the files are.
"""
