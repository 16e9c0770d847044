//! Channel operations through the control-plane, and each way they end.

use std::process::{Command, Stdio};
use std::time::Duration;

use interlock_client::v1;
use interlock_rpc::server::{GrpcServer, Listener, ServerConfig};
use interlock_rpc::services;
use serde_json::Value;
use tonic::{Request, Response, Status};

use crate::support::{Ran, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_succeeds_and_what_failed_fails() {
    let world = World::start().await;
    let create = ["channel", "create", "demo/a", "--via-control-plane"];
    let done = world.json("asia", &create);
    assert_eq!(
        (&done["outcome"], &done["node"]),
        (&"OPERATION_OUTCOME_DONE".into(), &"asia-1".into())
    );
    let said = world.fails("asia", &create, 4);
    assert!(said.contains("failed: CHANNEL_EXISTS"), "{said}");
    assert!(said.contains("interlock channel update"), "the hint of the refusal itself: {said}");
    let failed = world.run("asia", &[&["-o", "json"], &create[..]].concat());
    failed.assert_failed(4);
    let printed: Value = serde_json::from_str(&failed.stdout).expect("JSON");
    assert_eq!(printed["outcome"], "OPERATION_OUTCOME_FAILED");
    let update = ["channel", "update", "demo/a", "--description", "x", "--via-control-plane"];
    let said = world.table("asia", &update);
    assert!(said.contains("was carried out by asia-1 in asia"), "{said}");
    world.table("asia", &["channel", "delete", "demo/a", "--via-control-plane"]);
    world.fails("asia", &["channel", "delete", "demo/a", "--via-control-plane"], 3);
    world.end().await;
}

/// A control-plane that lost the node's answer.
struct Lossy;

#[tonic::async_trait]
impl services::operation::Service for Lossy {
    async fn execute_channel_operation(
        &self,
        _: Request<v1::ExecuteChannelOperationRequest>,
    ) -> Result<Response<v1::ExecuteChannelOperationResponse>, Status> {
        let record = v1::OperationRecord {
            number: 7,
            node: "asia-1".into(),
            action: "create".into(),
            namespace: "demo".into(),
            channel: "a".into(),
            outcome: v1::OperationOutcome::Unknown.into(),
            detail: "the answer was lost: UNAVAILABLE: broken pipe".into(),
            ..Default::default()
        };
        let response = v1::ExecuteChannelOperationResponse { record: Some(record), channel: None };
        Ok(Response::new(response))
    }

    async fn list_operations(
        &self,
        _: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        Ok(Response::new(v1::ListOperationsResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_of_which_nobody_knows_is_no_success() {
    let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
    let server = GrpcServer::new(ServerConfig::default())
        .add_service(services::operation::server(Lossy))
        .serve(listener)
        .await
        .expect("it serves");
    let folder = tempfile::tempdir().expect("a folder");
    let context = folder.path().join("context.toml");
    let text = format!(
        "current = \"x\"\n[contexts.x]\ncontrol_plane = \"http://{}\"\n\
         [contexts.x.regions.asia]\n",
        server.local_addr()
    );
    std::fs::write(&context, text).expect("written");
    let ran: Ran = Command::new(env!("CARGO_BIN_EXE_interlock"))
        .arg("--context-file")
        .arg(&context)
        .args(["-o", "json", "channel", "create", "demo/a", "--via-control-plane"])
        .stdin(Stdio::null())
        .output()
        .expect("it starts")
        .into();
    ran.assert_failed(5);
    assert!(ran.stderr.contains("nobody knows"), "{ran:?}");
    assert!(ran.stderr.contains("interlock channel show"), "{ran:?}");
    let printed: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(printed["outcome"], "OPERATION_OUTCOME_UNKNOWN");
    server.shutdown(Duration::from_secs(5)).await;
}
