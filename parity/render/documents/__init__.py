"""Reports about two logs or checkpoints: what was found as a document, and the formats that it is printed in."""
