package nginx

import "github.com/pimoe/pimoe/server/deploy"

var conf = deploy.Template("nginx.conf", `{{note}}
# nginx 1.22 or newer before {{len .Hosts}} hosts of PiMoE.
{{- if .User}}
user {{.User}};
worker_rlimit_nofile 65536;
{{- end}}
worker_processes auto;
pid {{.PID}};
error_log stderr warn;

events {
  worker_connections 16384; # two for each client that waits
}

http {
  server_tokens off;
  default_type application/octet-stream;
{{- if .Temp}}
  client_body_temp_path {{.Temp}}/body;
  proxy_temp_path {{.Temp}}/proxy;
  fastcgi_temp_path {{.Temp}}/fastcgi;
  uwsgi_temp_path {{.Temp}}/uwsgi;
  scgi_temp_path {{.Temp}}/scgi;
{{- end}}

  # Queries may hold what people wrote; they are not logged.
  log_format json escape=json '{"time":"$time_iso8601","request":"$id","client":"$remote_addr","method":"$request_method","path":"$uri",'
    '"status":$status,"seconds":$request_time,"host":"$upstream_addr","host_status":"$upstream_status","bytes":$body_bytes_sent}';
  access_log /dev/stdout json;

  # A host that stops or has no room says 503 at once and the next one is asked; one that is dead refuses, or takes a second
  # that least_conn sees. So no host is ever set aside: with max_fails all would be when all are busy.
  upstream pimoe {
    zone pimoe 256k;
    least_conn;
{{- range .Hosts}}
    server {{.}} max_fails=0;
{{- end}}
    keepalive 256;
    keepalive_requests 100000;
    keepalive_timeout 60s; # the host keeps them for 75 s
  }
{{- if .GRPC}}
  upstream pimoe_grpc {
    zone pimoe_grpc 256k;
    least_conn;
{{- range .GRPC}}
    server {{.}} max_fails=0;
{{- end}}
    keepalive 64;
  }
{{- end}}

  # One id in this log, in the host's and in the answer: the client's if it is harmless, else nginx's.
  map $http_x_request_id $id {
    "~^[A-Za-z0-9._:/-]+$" $http_x_request_id;
    default $request_id;
  }
  map $http_upgrade $connection_header {
    default upgrade;
    "" "";
  }
  # nginx's own answers have the shape of the route's errors.
  map $uri $error_type {
    default application/problem+json;
    "~^/v[12](/|$)" application/json;
  }
{{- range .Own}}
  map $uri $error_{{.Status}} {
    default {{.Problem}};
    "~^/v1(/|$)" {{.OpenAI}};
    "~^/v2(/|$)" {{.OIP}};
  }
{{- end}}

  limit_req_zone $binary_remote_addr zone=requests:16m rate={{.Limits.RatePerMinute}}r/m;
  limit_req_status 429;
  limit_conn_zone $binary_remote_addr zone=connections:16m;
  limit_conn_status 429;

  server {
    listen {{.HTTP}};
{{- if .IPv6}}
    listen [::]:{{.HTTP}};
{{- end}}
    location = /proxyz { # whether nginx is well, whatever the hosts are
      access_log off;
      default_type text/plain;
      return 200 "ok\n";
    }
    location / {
      return 308 https://{{.Host}}{{if ne .HTTPS 443}}:{{.HTTPS}}{{end}}$request_uri;
    }
  }

  server {
    # "http2" stands here because 1.22 does not know the directive of that name yet.
    listen {{.HTTPS}} ssl http2;
{{- if .IPv6}}
    listen [::]:{{.HTTPS}} ssl http2;
{{- end}}
    ssl_certificate {{.Certificate}};
    ssl_certificate_key {{.Key}};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305;
    ssl_session_cache shared:tls:16m;
    ssl_session_tickets off;

    client_max_body_size {{.Limits.BodyMB}}m;
    client_header_timeout 5s;
    client_body_timeout 10s;
    send_timeout 10s; # a stream's reader that does not read, as at the host
    keepalive_timeout 75s;
    large_client_header_buffers 4 16k;
    limit_conn connections 512;

    add_header Strict-Transport-Security "max-age=31536000" always;
{{- if .Region}}
    add_header Pimoe-Region {{.Region}} always;
{{- end}}
{{- range .Own}}
    error_page {{.From}} = @{{.Status}};
{{- end}}

    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Connection $connection_header;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header X-Forwarded-For $remote_addr; # what the client says of itself is not passed on
    proxy_set_header X-Forwarded-Proto https;
    proxy_set_header X-Request-Id $id;
    proxy_connect_timeout 1s;
    proxy_send_timeout 10s;
    proxy_read_timeout {{add .Limits.RequestSeconds 5}}s; # the host's own deadline comes first
    proxy_next_upstream error timeout http_503;
    proxy_next_upstream_tries {{.Tries}};
    proxy_next_upstream_timeout 5s; # after that the request's time is better left to one host

    # What only looks at the hosts is not counted.
    location ~ ^/(livez|readyz|startupz|health)$ {
      proxy_pass http://pimoe;
    }
    # These compute, and change nothing: the same request may go to another host although one has begun with it. Their
    # answers may be streams.
    location ~ ^/(v1/(completions|chat/completions|embeddings|responses)|v2/models/|api/v1/process$) {
      limit_req zone=requests burst={{.Limits.RatePerMinute}} nodelay;
      proxy_next_upstream error timeout http_503 non_idempotent;
      proxy_buffering off;
      proxy_pass http://pimoe;
    }
    # Connections that last: the host speaks every 25 s at least.
    location ~ ^/(ws|api/v1/events|api/v1/live)$ {
      limit_req zone=requests burst={{.Limits.RatePerMinute}} nodelay;
      proxy_buffering off;
      proxy_read_timeout 75s;
      proxy_pass http://pimoe;
    }
{{- if .GRPC}}
    location ~ ^/(inference\.GRPCInferenceService|grpc\.health\.v1\.Health)/ {
      limit_req zone=requests burst={{.Limits.RatePerMinute}} nodelay;
      grpc_set_header Host $http_host;
      grpc_set_header X-Forwarded-For $remote_addr;
      grpc_set_header X-Request-Id $id;
      grpc_connect_timeout 1s;
      grpc_read_timeout {{add .Limits.RequestSeconds 5}}s;
      grpc_next_upstream error timeout non_idempotent;
      grpc_next_upstream_tries {{.Tries}};
      grpc_next_upstream_timeout 5s;
      grpc_pass grpc://pimoe_grpc;
    }
{{- end}}
{{- if eq .Profile "multi-region"}}
    # The same for everybody: a CDN may keep them near to people for longer than a browser does.
    location /console {
      limit_req zone=requests burst={{.Limits.RatePerMinute}} nodelay;
      add_header CDN-Cache-Control "public, max-age=300, stale-while-revalidate=60, stale-if-error=86400";
      add_header Pimoe-Region {{.Region}} always;
      add_header Strict-Transport-Security "max-age=31536000" always;
      proxy_pass http://pimoe;
    }
{{- end}}
    location / {
      limit_req zone=requests burst={{.Limits.RatePerMinute}} nodelay;
      proxy_pass http://pimoe;
    }
{{- range .Own}}
    location @{{.Status}} {
      default_type "";
      add_header Content-Type $error_type always;
      add_header X-Request-Id $id always;
      add_header Strict-Transport-Security "max-age=31536000" always;
{{- if .Retry}}
      add_header Retry-After {{$.RetryAfter}} always;
{{- end}}
{{- if $.Region}}
      add_header Pimoe-Region {{$.Region}} always;
{{- end}}
{{- range $.Safety}}
      add_header {{.Name}} "{{.Value}}" always;
{{- end}}
      return {{.Status}} $error_{{.Status}};
    }
{{- end}}
  }
}
`)
