"""What learns: a folder per family, a file per technique. A class that derives from Technique is found by its name."""
