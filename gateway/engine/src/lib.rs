//! What happens to a packet. Pure: no socket, no runtime and no clock read; the time is an argument.
#![forbid(unsafe_code)]

pub mod gateway;
pub mod packet;
