//! IPv4: parse, one hop less, checksums.

use crate::packets::{SIZES, udp};
use criterion::{BatchSize, Criterion, Throughput};
use overlay_engine::packet::checksum::checksum;
use overlay_engine::packet::ipv4::{Ipv4, decrement_ttl};
use std::hint::black_box;

pub fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    for size in SIZES {
        let packet = udp([172, 16, 8, 57].into(), [172, 16, 8, 65].into(), size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("ipv4_parse/{size}"), |b| {
            b.iter(|| Ipv4::parse(black_box(&packet)).unwrap().destination());
        });
        group.bench_function(format!("decrement_ttl/{size}"), |b| {
            // A fresh packet each time: the 63rd hop would be the last.
            b.iter_batched_ref(
                || packet.clone(),
                |packet| assert!(decrement_ttl(packet)),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(format!("checksum/{size}"), |b| b.iter(|| checksum(black_box(&packet))));
    }
}
