"""Programs for trying, demonstrating and testing the provider; not part of the installed package."""
