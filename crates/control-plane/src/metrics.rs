//! What the control-plane counts.

use std::sync::Arc;

use interlock_rpc::v1::OperationOutcome;
use interlock_telemetry::metrics::{Counters, Gauge, Registry as MetricsRegistry, RpcMetrics};

use crate::leases::Liveness;
use crate::registry::Registry;

/// Handles to the control-plane's metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) calls: RpcMetrics,
    operations: Counters<1>,
    watchers: Gauge,
}

impl Metrics {
    /// Registers all of them; what the registry knows is asked for at each scrape.
    pub(crate) fn register(metrics: &MetricsRegistry, registry: &Arc<Registry>) -> Self {
        let nodes = Arc::clone(registry);
        metrics.observed_gauges(
            "control_plane_nodes",
            "Push-nodes in the topology, by what their leases say",
            ["liveness"],
            move || {
                let nodes = nodes.nodes();
                let count = |liveness: Liveness| {
                    nodes.iter().filter(|view| view.liveness == liveness).count()
                };
                Liveness::ALL
                    .into_iter()
                    .map(|liveness| ([liveness.as_str().to_owned()], count(liveness) as f64))
                    .collect()
            },
        );
        let topology = Arc::clone(registry);
        metrics.observed_gauges(
            "control_plane_topology_version",
            "The version of the topology, its generation and its number",
            ["part"],
            move || {
                let version = topology.topology().version;
                vec![
                    (["generation".to_owned()], version.generation as f64),
                    (["number".to_owned()], version.number as f64),
                ]
            },
        );
        let behind = Arc::clone(registry);
        metrics.observed_gauge(
            "control_plane_topology_behind",
            "1 while a node holds a newer topology than the control-plane",
            move || f64::from(u8::from(behind.is_behind())),
        );
        let operations = metrics.counters(
            "control_plane_operations",
            "Channel operations delivered to a region, by outcome",
            ["outcome"],
        );
        for outcome in [OperationOutcome::Done, OperationOutcome::Failed, OperationOutcome::Unknown]
        {
            // A counter that is there from the start shows its first rise.
            operations.with([outcome_name(outcome)]);
        }
        Self {
            calls: RpcMetrics::register(metrics),
            operations,
            watchers: metrics.gauge("control_plane_topology_watchers", "Open WatchTopology calls"),
        }
    }

    pub(crate) fn operation_ended(&self, outcome: OperationOutcome) {
        self.operations.with([outcome_name(outcome)]).increment();
    }

    /// Counts a watcher for as long as the answer lives.
    pub(crate) fn watcher(&self) -> Watching {
        self.watchers.add(1.0);
        Watching(self.watchers.clone())
    }
}

/// A watcher that is counted.
pub(crate) struct Watching(Gauge);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.add(-1.0);
    }
}

fn outcome_name(outcome: OperationOutcome) -> &'static str {
    match outcome {
        OperationOutcome::Done => "done",
        OperationOutcome::Failed => "failed",
        OperationOutcome::Unknown => "unknown",
        OperationOutcome::Running => "running",
        OperationOutcome::Unspecified => "unspecified",
    }
}
