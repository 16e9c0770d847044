//! A client of a mesh of processes.

use interlock_client::{Mesh as Client, RegionAddresses};
use xtask::mesh::{Mesh, REGIONS};

/// Connects to all regions and the control-plane.
pub(crate) fn client_of(mesh: &Mesh) -> Client {
    let regions = REGIONS
        .iter()
        .map(|region| {
            let addresses = RegionAddresses {
                push_nodes: vec![mesh.url(&Mesh::push_node(region))],
                gateways: vec![mesh.url(&Mesh::gateway(region))],
            };
            ((*region).to_owned(), addresses)
        })
        .collect();
    Client::new(Some(&mesh.url("control-plane")), &regions, None).expect("addresses")
}
