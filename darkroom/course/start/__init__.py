"""The learner's file of each lesson: functions to write, and a function to repair."""
