//! No tunnel: the overlay's addresses on the hosts themselves, and routes over the wires.

use super::Site;
use anyhow::Result;

/// Addresses and routes. There is no process.
pub fn lay(site: &Site<'_>) -> Result<()> {
    let own = site.place.overlay();
    site.topology.ip(site.place, &format!("address add {own}/32 dev lo"))?;
    for remote in site.remotes() {
        for network in &remote.networks {
            let route = format!("route replace {network} via {} src {own}", remote.endpoint);
            site.topology.ip(site.place, &route)?;
        }
    }
    Ok(())
}
