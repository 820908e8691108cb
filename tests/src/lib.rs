//! The world in which overlay-gw is tested: real TUN and TAP devices, network namespaces, other people's programs.
//!
//! One test is one [`World`](world::World): a process of its own with its own process, mount and network namespaces, so that nothing
//! outlives it. In it each [`Node`](node::Node) is a machine: an anonymous network namespace and a mount namespace with its own `/run`,
//! `/var/lib`, `/etc/hosts` and `/etc/resolv.conf`, connected to an underlay of Ethernet bridges. [`Gateway`](gateway::Gateway) is
//! overlay-gw running there, seen from outside only: its flags, its config file, `ready`, its exit codes and `status --json`.
//!
//! All of this is test code: a broken expectation panics with its line, which ends the test and keeps the evidence in
//! `target/test-logs/<test>/`. Nothing waits for a fixed time; everything waits for a condition, with a deadline.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken expectation ends the test, and says where"
)]

pub mod config_text;
pub mod delay;
pub mod flow;
pub mod gateway;
pub mod harness;
pub mod host_state;
pub mod iperf3;
pub mod keys;
pub mod mesh;
pub mod node;
pub mod overlay;
pub mod packet;
pub mod process;
pub mod wait;
pub mod wireguard;
pub mod world;
