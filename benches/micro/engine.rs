//! The engine's two ways, and the way through a hub: from the bytes that came in to the bytes to send.

use crate::packets::{SIZES, udp};
use crate::world::{self, Member, PACKETS, address, arriving, host_batch, output};
use criterion::{Criterion, Throughput};
use overlay_engine::Output;
use overlay_engine::packet::DatagramBatch;
use std::time::{Duration, Instant};

/// Packets between two looks at the clock, so that looking costs nothing: what they need is made before.
const CHUNK: usize = 256;

pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    for size in SIZES {
        for count in [1, PACKETS] {
            group.throughput(Throughput::Elements(count as u64));
            let packet = udp(address(57), address(65), size);
            let (now, a, b) = world::pair();
            group.bench_function(format!("handle_host/{size}/batch_{count}"), |bencher| {
                bencher.iter_custom(|iterations| host(now, &a, &packet, count, iterations));
            });
            group.bench_function(format!("handle_underlay/{size}/batch_{count}"), |bencher| {
                bencher.iter_custom(|iterations| {
                    underlay(now, &a, &b, &packet, count, iterations, |out| out.host.len())
                });
            });
            let (now, hub, a, _) = world::at_a_hub();
            group.bench_function(format!("routed_relay/{size}/batch_{count}"), |bencher| {
                bencher.iter_custom(|iterations| {
                    underlay(now, &a, &hub, &packet, count, iterations, |out| out.net.len())
                });
            });
        }
    }
}

/// The host of `a` sends batches of `count` packets.
fn host(now: Instant, a: &Member, packet: &[u8], count: usize, iterations: u64) -> Duration {
    let mut out = output();
    chunked(
        CHUNK / count,
        iterations,
        // The engine takes a hop off each packet in place: a batch is good for one time.
        |chunk| (0..chunk).map(|_| host_batch(packet, count)).collect::<Vec<_>>(),
        |batches| {
            for batch in batches {
                out.clear();
                a.engine.handle_host(now, batch, &mut out);
                assert_eq!(out.net.len(), count);
            }
        },
    )
}

/// `to` takes batches of `count` datagrams that `from` has sealed; each can be opened once.
fn underlay(
    now: Instant,
    from: &Member,
    to: &Member,
    packet: &[u8],
    count: usize,
    iterations: u64,
    delivered: impl Fn(&Output) -> usize,
) -> Duration {
    let (mut sealed, mut out) = (output(), output());
    let mut seal = || {
        sealed.clear();
        from.engine.handle_host(now, &mut host_batch(packet, count), &mut sealed);
        arriving(from.at, &sealed)
    };
    chunked(
        CHUNK / count,
        iterations,
        |chunk| (0..chunk).map(|_| seal()).collect::<Vec<DatagramBatch>>(),
        |batches| {
            for batch in batches {
                out.clear();
                to.engine.handle_underlay(now, batch, &mut out);
                assert_eq!(delivered(&out), count);
            }
        },
    )
}

/// The time that `work` takes for `iterations` pieces, in chunks that `prepare` makes outside of the measured time.
fn chunked<T>(
    chunk: usize,
    iterations: u64,
    mut prepare: impl FnMut(usize) -> Vec<T>,
    mut work: impl FnMut(&mut [T]),
) -> Duration {
    let (mut left, mut total) = (iterations as usize, Duration::ZERO);
    while left > 0 {
        let mut pieces = prepare(chunk.max(1).min(left));
        left -= pieces.len();
        let start = Instant::now();
        work(&mut pieces);
        total += start.elapsed();
    }
    total
}
