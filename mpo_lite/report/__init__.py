"""What a run did: as figures, and as a page to read and to pass on."""
