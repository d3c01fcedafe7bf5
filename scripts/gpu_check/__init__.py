"""What this program is and does on a GPU: its tests there, and its figures beside those of plain loops."""
