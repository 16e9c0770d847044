//! Channel operations that the control-plane brings to a region (METHOD M2).

use anyhow::Result;
use interlock_client::v1;
use interlock_rpc::status::{Reason, code_name, refusal};
use serde_json::json;
use tonic::{Code, Status};

use crate::commands::channels;
use crate::output::{Format, print};
use crate::target::Target;

/// Has the control-plane bring an operation to the region, and says what became
/// of it.
pub(crate) async fn execute(
    target: &Target,
    operation: v1::execute_channel_operation_request::Operation,
) -> Result<()> {
    let request = v1::ExecuteChannelOperationRequest {
        region: target.region.clone(),
        operation: Some(operation),
    };
    let response = target.mesh.operations()?.execute_channel_operation(request).await?.into_inner();
    let record = response.record.unwrap_or_default();
    let outcome = carried_out(&record);
    if outcome.is_ok() || target.format == Format::Json {
        let value = json!({
            "operation": record.number,
            "region": record.region,
            "node": record.node,
            "outcome": record.outcome().as_str_name(),
            "detail": record.detail,
            "channel": response.channel.as_ref().map(channels::value),
        });
        print(target.format, &value, || {
            let detail = match record.detail.as_str() {
                "" => String::new(),
                detail => format!(": {detail}"),
            };
            format!(
                "operation {} was carried out by {} in {}{detail}",
                record.number, record.node, record.region
            )
        })?;
    }
    Ok(outcome?)
}

/// An answer is no success yet: the record says what became of the operation.
fn carried_out(record: &v1::OperationRecord) -> Result<(), Status> {
    let what = format!(
        "operation {} ({} {}/{})",
        record.number, record.action, record.namespace, record.channel
    );
    let detail = &record.detail;
    match record.outcome() {
        v1::OperationOutcome::Done => Ok(()),
        v1::OperationOutcome::Failed => Err(failure(detail, format!("{what} failed: {detail}"))),
        v1::OperationOutcome::Unknown => Err(Status::deadline_exceeded(format!(
            "nobody knows whether {what} was carried out by {}: {detail}; look with `interlock channel show` before it is tried again",
            record.node
        ))),
        v1::OperationOutcome::Running | v1::OperationOutcome::Unspecified => {
            Err(Status::unknown(format!("{what} has not ended")))
        }
    }
}

/// As the node would have refused it itself: the detail names the reason.
fn failure(detail: &str, text: String) -> Status {
    let mut words = detail.split(": ");
    if let Some(reason) = words.clone().find_map(Reason::parse) {
        return refusal(reason, text).into_status();
    }
    if words.any(|word| word == code_name(Code::Unavailable)) {
        return refusal(Reason::NoNodeReachable, text).into_status();
    }
    Status::failed_precondition(text)
}

#[cfg(test)]
mod tests {
    use interlock_client::v1::OperationOutcome::{Done, Failed, Running, Unknown, Unspecified};
    use interlock_rpc::status::reason_of;

    use super::*;

    fn of(outcome: v1::OperationOutcome, detail: &str) -> Result<(), Status> {
        carried_out(&v1::OperationRecord {
            number: 7,
            node: "asia-1".into(),
            action: "create".into(),
            namespace: "demo".into(),
            channel: "news".into(),
            outcome: outcome.into(),
            detail: detail.into(),
            ..Default::default()
        })
    }

    #[test]
    fn only_what_is_done_is_a_success() {
        assert!(of(Done, "").is_ok());
        assert!(of(Done, "DURABILITY_TIMEOUT: not at all of them").is_ok());
        for outcome in [Failed, Unknown, Running, Unspecified] {
            assert!(of(outcome, "").is_err(), "{outcome:?}");
        }
    }

    #[test]
    fn a_failure_says_why_as_the_node_itself_would() {
        let cases = [
            ("CHANNEL_EXISTS: demo/news is there", Code::AlreadyExists),
            ("UNKNOWN_NAMESPACE: no demo", Code::NotFound),
            ("nothing was sent: DRAINING: it ends", Code::Unavailable),
            ("nothing was sent: UNAVAILABLE: connection refused", Code::Unavailable),
            ("asia: something else", Code::FailedPrecondition),
        ];
        for (detail, code) in cases {
            let status = of(Failed, detail).expect_err(detail);
            assert_eq!(status.code(), code, "{detail}");
            assert!(
                status.message().contains("create demo/news") && status.message().contains(detail)
            );
        }
        let status = of(Failed, cases[0].0).expect_err("it is there");
        assert_eq!(reason_of(&status), Some(Reason::ChannelExists));
    }

    #[test]
    fn an_unknown_outcome_is_called_one() {
        let status =
            of(Unknown, "the answer was lost: UNAVAILABLE: broken pipe").expect_err("lost");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().contains("nobody knows"), "{status}");
        assert!(status.message().contains("the answer was lost"), "{status}");
    }
}
