//! iperf3 between two nodes.

use std::time::Duration;

use serde_json::Value;

use crate::node::Node;
use crate::process::Process;
use crate::wait::until;

/// An iperf3 server that runs in a node.
pub struct Iperf3 {
    serving: Process,
    measured: usize,
}

impl Iperf3 {
    /// Starts the server, on iperf3's own port.
    #[track_caller]
    pub fn serve(node: &Node) -> Self {
        Self { serving: node.spawn("iperf3", "iperf3 -s --forceflush"), measured: 0 }
    }

    /// The whole report of a run from `client`, with iperf3's own options, such as `-t 2 -R`.
    ///
    /// # Panics
    /// When iperf3 fails, which it may report with exit code 0.
    #[track_caller]
    pub fn run(&mut self, client: &Node, options: &str, server: &str) -> Value {
        // It listens anew for every run; whoever comes before that is refused.
        let serving = &self.serving;
        let listened = || serving.stdout().iter().filter(|line| line.contains("listening")).count();
        until("iperf3 listens", || listened() > self.measured);
        self.measured += 1;
        let line = format!("iperf3 -J {options} -c {server}");
        let report = client.run_in(Duration::from_secs(120), &line).exits(0).json();
        assert_eq!(report["error"], Value::Null, "{report:#}\n{}", serving.said());
        report
    }

    /// What arrived in such a run.
    #[track_caller]
    pub fn received(&mut self, client: &Node, options: &str, server: &str) -> u64 {
        let report = self.run(client, options, server);
        report["end"]["sum_received"]["bytes"].as_u64().unwrap_or_else(|| panic!("{report:#}"))
    }
}
