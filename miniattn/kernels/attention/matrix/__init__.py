"""Attention by the matrix unit of the processor, where it has one."""
