"""The benchmark: this program beside its peers. Each part is a function that takes Options and returns a Result."""
