//! Super-packets on the real kernel: a stream between two hosts whose devices are joined packet by packet, with offload
//! on either side or none, on new devices and on ones that an earlier run left behind.

use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

const STREAM: usize = 8 << 20;

async fn device(offload: bool, own: &str) -> TunDevice {
    let spec = DeviceSpec { offload, ..spec(Layer::Tun) };
    let opened = TunDevice::open(&spec, &host()).await.unwrap();
    if !opened.adopted {
        ip(&format!("addr add {own}/24 dev Overlay"));
        ip("link set Overlay up mtu 1420");
    }
    assert_eq!(opened.device.has_offload(), offload);
    opened.device
}

/// Carries packets both ways until `done`; the largest batch that was read at once.
fn carry(near: &TunDevice, far: &TunDevice, done: &AtomicBool, most: &AtomicUsize) {
    let (waker, mut batch) = (Waker::new().unwrap(), PacketBatch::with_capacity(256 << 10, 128));
    while !done.load(Relaxed) {
        wait_readable(&[near.as_fd(), far.as_fd()], &waker, Some(Duration::from_millis(20))).unwrap();
        for (from, to) in [(near, far), (far, near)] {
            batch.clear();
            let count = from.read_batch(&mut batch).unwrap();
            most.fetch_max(count, Relaxed);
            assert!(batch.iter().all(|(_, packet)| packet.len() <= 1420), "larger than the MTU");
            // Until the links are up, the kernel says what it likes (router solicitations).
            let _ = to.write_batch(&batch).unwrap();
        }
    }
}

#[test]
fn a_stream_passes_unharmed_between_devices_with_and_without_offload_new_and_adopted() {
    world(async || {
        let there = netns::create().unwrap();
        for (left, right) in [(true, true), (true, false), (false, true), (false, false), (true, true)] {
            let near = device(left, "172.16.8.57").await;
            let far = netns::run_in(there.as_fd(), move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                Ok(runtime.block_on(device(right, "172.16.8.65")))
            })
            .unwrap();
            let listener = netns::run_in(there.as_fd(), || TcpListener::bind("172.16.8.65:5000")).unwrap();
            let (done, most) = (AtomicBool::new(false), AtomicUsize::new(0));
            let bytes: Vec<u8> = (0..STREAM).map(|n| ((n * 2_654_435_761) >> 13) as u8).collect();
            std::thread::scope(|scope| {
                scope.spawn(|| carry(&near, &far, &done, &most));
                let reader = scope.spawn(|| {
                    let mut got = Vec::new();
                    listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
                    got
                });
                // On this thread, which is in the namespace.
                let mut stream = TcpStream::connect("172.16.8.65:5000").unwrap();
                stream.write_all(&bytes).unwrap();
                drop(stream);
                assert!(reader.join().unwrap() == bytes, "{left} {right}: other bytes arrived");
                done.store(true, Relaxed);
            });
            assert_eq!(near.drops().too_big + far.drops().too_big, 0);
            assert!(!left || most.load(Relaxed) > 20, "no super-packet: {most:?}");
        }
    });
}
