//! What to do about what is in the way, in the words of this system.

/// Who may do it.
pub const RIGHTS: &str = "run as root, or with the capability CAP_NET_ADMIN";

/// Removes a device.
pub const REMOVE_DEVICE: &str = "remove it with `ip link delete NAME`";

/// Shows who has a UDP port.
pub const PORT_HOLDER: &str = "see who has it with `ss -ulpn`";

/// Sets the clock.
pub const SET_CLOCK: &str = "set the clock (timedatectl status; chronyc makestep)";
