//! Builds of different age side by side, under load: one process after the other goes to
//! the newer build, back to the older one, and to the newer one again.
//!
//! `cargo xtask upgrade --from REVISION` builds the older one from the repository's
//! history. In the gate both are this build, and the older one says that it understands
//! no more than the first feature level.

use std::path::PathBuf;

use interlock_client::v1;
use interlock_core::features::{FEATURE_LEVEL, FIRST_FEATURE_LEVEL};
use interlock_rpc::status::{Reason, reason_of};
use xtask::mesh::{Mesh, REGIONS};

use crate::load::LEVELS;
use crate::loaded_mesh::LoadedMesh;
use crate::waiting::until;
use crate::{binaries, the_machine};

/// Messages that every region acknowledges between two steps, at the first level.
const PROGRESS: u64 = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Build {
    Older,
    Newer,
}

/// Where the two builds are.
struct Builds {
    older: Option<PathBuf>,
}

impl Builds {
    fn choose(&self, mesh: &mut Mesh, build: Build) {
        match (build, &self.older) {
            (Build::Newer, _) => mesh.set_binaries(&binaries()),
            (Build::Older, Some(older)) => mesh.set_binaries(older),
            (Build::Older, None) => {}
        }
        let level = match build {
            Build::Newer => FEATURE_LEVEL,
            Build::Older => FIRST_FEATURE_LEVEL,
        };
        // A build that has no levels takes no notice.
        mesh.set_environment("INTERLOCK_FEATURE_LEVEL", &level.to_string());
    }
}

impl LoadedMesh {
    async fn all_advance(&mut self) {
        for region in REGIONS {
            for (level, _) in LEVELS {
                self.advance(region, level, PROGRESS).await;
            }
        }
    }

    async fn change_node(&mut self, builds: &Builds, region: &str, build: Build) {
        self.mesh.stop(&Mesh::push_node(region)).expect("it stops when it is told");
        builds.choose(&mut self.mesh, build);
        self.mesh.start_push_node(region).expect("it opens what the other build has stored");
        self.all_advance().await;
    }

    async fn change_the_rest(&mut self, builds: &Builds, build: Build) {
        builds.choose(&mut self.mesh, build);
        for region in REGIONS {
            self.mesh.stop(&Mesh::gateway(region)).expect("it stops when it is told");
            self.mesh.start_gateway(region).expect("it starts");
        }
        self.mesh.stop("control-plane").expect("it stops when it is told");
        self.mesh.start_control_plane().expect("it opens what the other build has stored");
        self.all_advance().await;
    }

    /// Whether the mesh does what not every build understands: the answer to an edit that
    /// would have a group lose a region.
    async fn try_to_shrink(&self) -> Result<(), tonic::Status> {
        let request = v1::ApplyGroupRequest {
            name: "world".into(),
            regions: REGIONS[1..].iter().map(|region| (*region).to_owned()).collect(),
            leave: true,
        };
        self.client.topology().expect("a control-plane").apply_group(request).await.map(drop)
    }

    async fn refuses_to_shrink(&self, why: Reason) {
        until("the refusal", async || match self.try_to_shrink().await {
            Err(status) if reason_of(&status) == Some(why) => Ok(()),
            // Nodes call again after a start of the control-plane, and are heard first.
            Err(status) => Err(status),
            Ok(()) => panic!("it was done though not all understand it"),
        })
        .await;
    }
}

/// Nothing is lost or doubled while builds change under load, forth and back, and nothing
/// new is used before every node understands it (METHOD M10, M11, M12; promise I1–I6).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_upgrade() {
    let _machine = the_machine().lock().await;
    let older = std::env::var_os("INTERLOCK_OLDER_BINARIES").map(PathBuf::from);
    let builds = Builds { older };
    let oldest = builds.older.clone().unwrap_or_else(binaries);
    let mut loaded = LoadedMesh::start(&oldest, |mesh| builds.choose(mesh, Build::Older)).await;
    loaded.all_advance().await;
    let [first, rest @ ..] = REGIONS;
    println!("the first node goes to the newer build, and back");
    for build in [Build::Newer, Build::Older, Build::Newer] {
        loaded.change_node(&builds, first, build).await;
    }
    println!("the gateways and the control-plane go to the newer build");
    loaded.change_the_rest(&builds, Build::Newer).await;
    loaded.refuses_to_shrink(Reason::FeatureLevel).await;
    for region in rest {
        println!("the node of {region} goes to the newer build");
        loaded.change_node(&builds, region, Build::Newer).await;
    }
    println!("all go back to the older build, and to the newer one again");
    for build in [Build::Older, Build::Newer] {
        for region in REGIONS {
            loaded.change_node(&builds, region, build).await;
        }
        loaded.change_the_rest(&builds, build).await;
    }
    println!("{first} leaves, as all understand it now");
    loaded.end_subscriber(first);
    until("the group is smaller", async || loaded.try_to_shrink().await).await;
    let told = loaded.end_publishers(first).await;
    loaded.demand(told);
    loaded.check().await;
}
