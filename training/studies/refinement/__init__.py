"""The classifier of FDG lesions: fitted, and judged on patients held out."""
