"""How good a network is: its objective against the optimiser's, similarity, artefacts, time and memory."""
