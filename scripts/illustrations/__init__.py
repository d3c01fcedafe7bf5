"""The pictures of README.md and docs/: recordings of a terminal, screenshots of pages, drawings of policies."""
