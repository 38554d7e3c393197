"""INT8 by NNCF, OpenVINO's quantiser."""
