//! Links that connect as Magic Wormhole's transit does: direct TCP first, then a relay.
