//! TFTP, FTP and HTTP: three doors onto one provisioning pipeline.
