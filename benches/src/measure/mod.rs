//! What is measured, each in a file of its own.

pub mod ping;
pub mod tcp;
pub mod udp;
