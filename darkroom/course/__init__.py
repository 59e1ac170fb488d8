"""The course: exercises with a checker, and helpers of its lessons in docs/course."""
