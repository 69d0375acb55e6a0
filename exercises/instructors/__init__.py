"""For instructors: a folder of hand-ins to one table of grades, and the files that other graders need."""
