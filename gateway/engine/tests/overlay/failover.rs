//! Several hubs and direct paths: what breaks, and how soon traffic goes on.
