"""Objectives: what a step minimises and an evaluation measures, one file a task (`loop.Objective` is the protocol)."""
