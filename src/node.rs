//! Builds every service, hands each its neighbours, stops all in order.
