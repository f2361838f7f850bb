"""The sections of the report, one module each; `report.catalog` puts them in order."""
