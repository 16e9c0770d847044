//! Interlock's append log and projections: the contract, memory and RocksDB.
