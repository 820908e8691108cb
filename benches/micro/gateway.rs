//! What the synthetic gateway answers, through the whole engine: an echo, a refused connection.

use crate::packets::{echo, syn};
use crate::world::{address, alone, host_batch, output};
use criterion::Criterion;
use std::time::{Duration, Instant};

/// Refusals are limited in number per second: so much time passes between two of them.
const BETWEEN_REFUSALS: Duration = Duration::from_millis(2);

pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gateway");
    let node = alone();
    let mut out = output();
    for len in [56, 1372] {
        // The gateway's address, and a request that is only read: one batch does for all times.
        let mut batch = host_batch(&echo(address(57), address(56), len), 1);
        let now = Instant::now();
        group.bench_function(format!("echo/{len}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                node.engine.handle_host(now, &mut batch, &mut out);
                assert_eq!(out.host.len(), 1);
            });
        });
    }
    let cases = [
        ("reset", syn(address(57), address(60))),
        ("net_unreachable", syn(address(57), [192, 0, 2, 1].into())),
    ];
    // One clock for all of them, for they share the limit.
    let mut now = Instant::now();
    for (name, packet) in cases {
        let mut batch = host_batch(&packet, 1);
        group.bench_function(format!("refuse/{name}"), |bencher| {
            bencher.iter(|| {
                now += BETWEEN_REFUSALS;
                out.clear();
                node.engine.handle_host(now, &mut batch, &mut out);
                assert_eq!(out.host.len(), 1);
            });
        });
    }
}
