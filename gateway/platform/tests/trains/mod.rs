//! Trains of datagrams on the real kernel: whole, refused, and on paths that are too narrow or too slow for them.

use super::*;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use std::os::fd::AsRawFd;

const FAR: &str = "192.0.2.2:4000";

/// Two transports and a wire between their namespaces.
fn wire() -> (UdpTransport, UdpTransport, std::os::fd::OwnedFd) {
    let (here, there) = (netns::current().unwrap(), netns::create().unwrap());
    let (left, right) = (["192.0.2.1/24".parse().unwrap()], ["192.0.2.2/24".parse().unwrap()]);
    link::veth(
        End { name: "wire", namespace: here.as_fd(), addresses: &left },
        End { name: "wire", namespace: there.as_fd(), addresses: &right },
    )
    .unwrap();
    let near = UdpTransport::bind(Some("192.0.2.1".parse().unwrap()), 0).unwrap();
    let far = netns::run_in(there.as_fd(), || UdpTransport::bind(None, 4000)).unwrap();
    (near, far, there)
}

/// `count` datagrams of `len` bytes that bear their number, and a shorter one.
fn fill(batch: &mut DatagramBatch, to: SocketAddr, count: u32, len: usize) {
    for n in 0..=count {
        let mut bytes = vec![0xa5; if n == count { len / 2 } else { len }];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        assert!(batch.push(to, &bytes));
    }
}

/// What arrives until `wanted` datagrams have: their numbers and lengths, in order.
fn arrived(far: &UdpTransport, wanted: usize) -> Vec<(u32, usize)> {
    let mut batch = DatagramBatch::with_capacity(1 << 20, 1024);
    let (fds, waker): (Vec<_>, _) = (far.fds().collect(), Waker::new().unwrap());
    let mut arrived = Vec::new();
    while arrived.len() < wanted && wait_readable(&fds, &waker, Some(Duration::from_secs(3))).unwrap().any() {
        batch.clear();
        far.recv_batch(&mut batch).unwrap();
        arrived.extend(batch.iter().map(|(_, b)| (u32::from_be_bytes(b[..4].try_into().unwrap()), b.len())));
    }
    arrived
}

fn expected(count: u32, len: usize) -> Vec<(u32, usize)> {
    (0..=count).map(|n| (n, if n == count { len / 2 } else { len })).collect()
}

#[test]
fn equal_datagrams_travel_as_trains_and_arrive_as_they_were() {
    world(async || {
        let (near, far, _there) = wire();
        let to = FAR.parse().unwrap();
        for (count, len) in [(1, 8), (63, 1452), (64, 1452), (200, 1452), (200, 96), (10, 9000), (3, 30_000)]
        {
            let mut batch = DatagramBatch::with_capacity(4 << 20, 300);
            fill(&mut batch, to, count, len);
            assert_eq!(near.send_batch(&batch).unwrap(), batch.len());
            // Datagrams above the wire's MTU are fragmented, and those of trains as well.
            far.set_max_datagram(65_535);
            assert_eq!(arrived(&far, batch.len()), expected(count, len), "{count} of {len}");
        }
        assert_eq!((near.errors(), far.errors()), Default::default());
    });
}

#[test]
fn where_the_socket_refuses_trains_the_datagrams_go_singly() {
    world(async || {
        let (near, far, _there) = wire();
        // The kernel cuts no train for a socket without checksums: EINVAL.
        let on: libc::c_int = 1;
        for fd in near.fds() {
            // SAFETY: the value is one int, read during the call.
            #[allow(unsafe_code, reason = "nix has no SO_NO_CHECK")]
            let result = unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_NO_CHECK,
                    (&raw const on).cast(),
                    4,
                )
            };
            assert_eq!(result, 0);
        }
        for _ in 0..3 {
            let mut batch = DatagramBatch::with_capacity(4 << 20, 1000);
            fill(&mut batch, FAR.parse().unwrap(), 400, 500);
            assert_eq!(near.send_batch(&batch).unwrap(), 401);
            assert_eq!(arrived(&far, 401), expected(400, 500));
        }
        assert_eq!(near.errors(), Default::default());
    });
}

#[test]
fn a_train_whose_segments_the_path_does_not_take_goes_singly_and_the_next_one_whole() {
    world(async || {
        let (near, far, _there) = wire();
        ip("link set wire mtu 1280");
        for (count, len) in [(100, 1452), (100, 1200), (100, 1452)] {
            let mut batch = DatagramBatch::with_capacity(4 << 20, 300);
            fill(&mut batch, FAR.parse().unwrap(), count, len);
            assert_eq!(near.send_batch(&batch).unwrap(), batch.len());
            assert_eq!(arrived(&far, batch.len()), expected(count, len));
        }
        assert_eq!(near.errors(), Default::default());
    });
}

#[test]
fn what_a_full_socket_does_not_take_is_dropped_counted_and_does_not_block_for_long() {
    world(async || {
        let (near, far, there) = wire();
        // Nobody answers for this address: what is sent to it waits in the kernel and fills the socket.
        for fd in near.fds() {
            setsockopt(&fd, sockopt::SndBuf, &(64 << 10)).unwrap();
        }
        let mut batch = DatagramBatch::with_capacity(4 << 20, 1000);
        fill(&mut batch, "192.0.2.77:4000".parse().unwrap(), 900, 1452);
        let begin = Instant::now();
        let sent = near.send_batch(&batch).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(1));
        assert!(sent < batch.len(), "all {sent} sent");
        assert_eq!(sent as u64 + near.errors().no_buffer, batch.len() as u64, "{:?}", near.errors());
        drop((far, there));
    });
}
