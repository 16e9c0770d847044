//! `nats-bench catch-up`

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::try_join;
use interlock_bench::{Latencies, Progress, Report, Unit};

use crate::publishing::Publishing;
use crate::replicate::Pair;
use crate::server::Server;
use crate::settings::{Installation, Messages, Syncing, name_of};
use crate::streams;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    messages: Messages,
    #[command(flatten)]
    publishing: Publishing,
    /// When both servers sync what they store.
    #[arg(long, value_enum, default_value_t = Syncing::Always)]
    sync: Syncing,
    /// Messages that are published while the mirror is away, at least.
    #[arg(long, default_value_t = 1_000_000)]
    missed: u64,
    /// Messages a second that others publish and read at A meanwhile.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    live: u64,
}

/// B stops, so many messages are published at A, and B starts again while others
/// publish and read on at A; they do the same before, without it.
pub(crate) async fn run(installation: &Installation, arguments: &Arguments) -> Result<Report> {
    let Arguments { messages, publishing, sync, missed, live } = arguments;
    let report = messages.report("catch-up of the mirror of a leaf node", installation)?;
    let pair = Pair::start(installation, *sync, publishing.mode).await?;
    let Pair { a, b, at_a, at_b, b_configuration, folder } = pair;
    let had = streams::last(&at_b, streams::MIRROR).await?;
    drop(at_b);
    b.stop().await?;

    let backlog = messages.payloads();
    let progress = Progress::counting("publishing what is missed", *missed);
    let mut published = 0;
    while published < *missed {
        published += publishing.run(&a, &backlog, Duration::from_secs(1)).await?.messages;
        progress.set(published);
    }
    progress.finish();

    let paced = publishing.single_at(*live);
    let undisturbed = read_along(&a, messages, &paced).await?;
    let all = streams::last(&at_a, streams::STREAM).await?;
    let catching_up = async {
        let begun = Instant::now();
        let b = Server::start(installation, folder.path(), &b_configuration).await?;
        let at_b = streams::jetstream(&b).await?;
        let went_on = streams::wait_until(&at_b, streams::MIRROR, had, all).await?;
        anyhow::Ok((begun, went_on, b))
    };
    // B goes on until the live messages have come to their end.
    let ((begun, went_on, _b), disturbed) =
        try_join(catching_up, read_along(&a, messages, &paced)).await?;

    let missed = (all - had) as f64;
    let took = went_on.ended.duration_since(begun);
    let rate = missed / took.as_secs_f64();
    let once_begun = missed / (went_on.ended - went_on.first).as_secs_f64().max(f64::EPSILON);
    let slower = ratio(disturbed.quantile(0.99), undisturbed.quantile(0.99));
    Ok(publishing
        .describe(report)
        .setting("sync", name_of(sync))
        .setting("live", *live)
        .figure("missed", missed, Unit::Messages)
        .figure("seconds", took.as_secs_f64(), Unit::Seconds)
        .figure("seconds_until_it_went_on", (went_on.first - begun).as_secs_f64(), Unit::Seconds)
        .figure("messages_per_second", rate, Unit::PerSecond)
        .figure("messages_per_second_once_it_went_on", once_begun, Unit::PerSecond)
        .figure("times_the_live_rate", rate / *live as f64, Unit::Times)
        .figure("live_p99_times_the_undisturbed", slower, Unit::Times)
        .latencies("live_delivery_before", undisturbed)
        .latencies("live_delivery_meanwhile", disturbed))
}

/// How long deliveries take at A at the live rate.
async fn read_along(a: &Server, messages: &Messages, paced: &Publishing) -> Result<Latencies> {
    let payloads = messages.payloads();
    let at_a = streams::jetstream(a).await?;
    let reader = streams::consume(&at_a, a, streams::STREAM, &payloads).await?;
    let published = paced.run(a, &payloads, messages.time()).await?;
    Ok(reader.finish(published.messages).await?.latencies.unwrap_or_default())
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64().max(f64::EPSILON)
}
