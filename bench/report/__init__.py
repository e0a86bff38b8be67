"""Results to pages: tables, figures, one HTML report. Imports no torch."""
