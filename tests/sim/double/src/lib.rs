//! A double of boringtun: what the engine uses of it, under the same names.
//!
//! Messages have the sizes, types, indices and counters of WireGuard (paper, section 5.4), the session keeps boringtun's
//! ring of eight, its replay window and its timers, and refuses what boringtun refuses. The cryptography is a toy (see
//! [`mix`]): it detects every change and hides every payload from whoever does not look for a weakness, at a hundredth
//! of the price. Nothing here is random: the same calls at the same time make the same bytes.
//!
//! **Never for anything but simulations.**

mod mix;
pub mod noise;
mod session;
pub mod x25519;
